"""Which facts of a text stand in its source, which follow from it by a named rule, and which do neither.

    check("K 7.2 mmol/L, no fever", "Hb was 7.2 g/dL. He had fever.")
    -> quantity 7.2 mmol/L unsupported; negated finding fever unsupported

What can be claimed of a text that passes is "no unsupported atom under these rules", never that nothing is invented.
"""
