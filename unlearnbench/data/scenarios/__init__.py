"""Which samples are forgotten: scenario plugins, one rule a file. `split` makes the split of one."""
