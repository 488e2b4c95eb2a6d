"""Options of the parts of this plugin, which are also the whitelist of what configurations may say."""
