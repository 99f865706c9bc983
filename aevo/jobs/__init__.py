"""Jobs: one submission wrapper, what runs inside a job, how its state is told from its files.

`spec` -> `submit` -> `execute` (inside the job) -> records -> `state`. A job is known by its name
and its folder; everything about it is read from there, so any process can submit, adopt, watch or
cancel it, and a process that dies takes no knowledge with it.
"""
