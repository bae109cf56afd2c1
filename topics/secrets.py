"""Which settings of Kafka are secrets, and settings that can be shown without them."""

from __future__ import annotations

import re

__all__ = ["HIDDEN", "KafkaSettings", "is_secret"]

HIDDEN = "***"
_SECRET = re.compile(r"pass(word|phrase|wd)|secret|key\.pem|token|jaas|oauthbearer\.config", re.IGNORECASE)


def is_secret(name: str) -> bool:
    """Whether the value of a setting of this name must not be seen; rather one too many."""
    return _SECRET.search(name) is not None


class KafkaSettings(dict[str, str]):
    """librdkafka settings by name; their text, in whatever it turns up, has `HIDDEN` for each secret."""

    def __repr__(self) -> str:
        return repr({name: HIDDEN if is_secret(name) else value for name, value in self.items()})
