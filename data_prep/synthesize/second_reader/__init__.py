"""A chat model that compares sentences with their source, where the rules of `faithfulness` prove nothing."""
