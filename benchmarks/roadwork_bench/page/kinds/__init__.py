"""One file a kind of result. Each has:

TITLE     what its section is called
FILES     names of its result files without .json; `*` stands for anything, and the longest pattern that fits wins
COMMAND   what measures it
ORDER     of its section on the page, from small to large
render(results) -> list of blocks; several results only where TOGETHER is true, then all of one machine
TOGETHER  optional: results of one machine are shown in one table or plot
goals(result) -> list of goals, optional: what was wanted of these figures, and whether it is reached
"""
