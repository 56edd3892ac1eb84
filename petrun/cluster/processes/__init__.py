"""The processes of this host: how they are started, tagged, watched and ended, and their logs. Which ranks there are is decided above."""
