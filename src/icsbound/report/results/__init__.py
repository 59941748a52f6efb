"""The page of a table of results, as `sweep` and `evaluate` write it: what it says of each arm against its control.

`groups` keeps unlike runs apart, `contrasts` compares, `table` loads, `findings` says it in sentences, `figures` draws,
`tables` and `markdown` write it down, `page` sets it.
"""
