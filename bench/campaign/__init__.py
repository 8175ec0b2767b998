"""Random networks on random accelerators, by the thousand: RTL, interpreter and golden agree.

`moevit verify --random N --seed S` runs :func:`.campaign.run`; docs/verification.md says what is
drawn, what is compared and what has been found.
"""
