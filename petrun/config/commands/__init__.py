"""What each command is told beside the settings of a run: one frozen record a command, whose fields carry flag, help and panel. No
MindSpore: `--help` reads these records. What a command does with them stands in petrun.commands."""
