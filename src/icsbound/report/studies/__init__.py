"""The page of studies: measured points beside what the theory predicts, and a verdict computed from them.

`points` reads and judges, `verdicts` says it in a paragraph a study, `panels` lists the figures, `figures` draws them,
`page` sets the page. As everywhere in this wing, all comes from the records.
"""
