"""What this plugin offers. Importing it is cheap: torch and the rest come with the builders."""
