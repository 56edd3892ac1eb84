"""petrun for programs: each function's keywords become the settings record of a command, and one call into commands/, as in cli/."""
