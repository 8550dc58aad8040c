"""The recipe schema: typed settings; `maskwright.config` puts them together and reads them from YAML."""
