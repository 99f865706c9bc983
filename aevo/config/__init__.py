"""The configuration, validated whole: a module for each group of `conf/`."""
