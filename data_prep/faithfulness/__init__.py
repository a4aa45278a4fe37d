"""The check of a text's facts against its source: each is stated, derived by a named rule, or unsupported.

    check("K 7.2 mmol/L, no fever", "Hb was 7.2 g/dL. He had fever.")
    -> quantity 7.2 mmol/L unsupported; negated finding fever unsupported

A text that passes has no unsupported atom under these rules. That does not prove that nothing in it is invented.
"""

from data_prep.faithfulness.certificate import certify, check

__all__ = ["certify", "check"]
