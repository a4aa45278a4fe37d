"""Blinded scoring of answers by clinicians with the rubric, in a browser or on paper.

    study.py     questions and answers -> study.sqlite (who sees what, no model names) and key.json (which is which)
    serve.py     study.sqlite -> the page, for raters and an administrator
    paper.py     study.sqlite <-> forms to print and a CSV to fill in
    ratings.py   study.sqlite and key.json -> a folder of ratings

Only `ratings` reads the key.
"""
