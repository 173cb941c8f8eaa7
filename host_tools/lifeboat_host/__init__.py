"""Host tools of lifeboat: build, look at and check embedded-code images and backup regions."""

__version__ = "0.1.0"
