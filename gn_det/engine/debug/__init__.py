"""What a run does when a step fails: where it began, what would help, and how to see it again."""
