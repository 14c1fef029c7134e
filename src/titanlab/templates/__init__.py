"""What `titanlab new` writes: plug-ins that work, each with its test and a sweep; `template` stands for the name."""
