"""SPT's idea: prompts that start at prototypes of the task's own tokens."""
