"""What a task gets wrong."""


class TaskError(TypeError):
    """A model or a trainer that does not give what it must; the message says it all, in one line."""

    one_line = True
