"""The experiment: `spec` describes a run, `store` knows its files, `stages` make them, `runner` puts them in a row."""
