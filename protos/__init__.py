"""All that is on the wire: messages, tensor codec, channels and servers, errors."""
