"""Exceptions are the engine's codes."""

import klatch
from klatch import _klatch, errors


def test_every_code_of_a_host_has_a_class():
    # What only connections are told: a host's calls never fail so.
    connections = {"unknown_command", "not_joined", "already_joined", "too_many_rooms", "no_room"}
    for number, name, retry, doc in _klatch._codes():
        error = errors._error(number, name, retry, "text", 1500)
        assert (error.code, error.name, error.retry, error.retry_after) == (number, name, retry, 1.5)
        assert isinstance(error, klatch.KlatchError) and str(error) == f"{name}: text"
        if name not in connections:
            kind = type(error)
            assert (kind.code, kind.name, kind.retry) == (number, name, retry), name
        # Of 1xx it is certain; 300 alone is not.
        assert isinstance(error, klatch.OutcomeUnknown) == (number == 300)
        if number < 300 and name != "ended":
            assert isinstance(error, klatch.NotStored)


def test_codes_of_a_later_version_have_the_class_of_their_hundred():
    for code, kind in ((199, klatch.NotStored), (299, klatch.InvalidRequest), (399, klatch.OutcomeUnknown)):
        error = errors._error(code, "new", "later", "", 0)
        assert type(error) is kind and error.name == "new"
    assert type(errors._error(599, "new", "operator", "", 0)) is klatch.KlatchError


def test_everything_public_is_documented():
    for name in klatch.__all__:
        value = getattr(klatch, name)
        assert name == "__version__" or value.__doc__, name
        if isinstance(value, type):
            for member in vars(value):
                if not member.startswith("_") and callable(getattr(value, member)):
                    assert getattr(value, member).__doc__, f"{name}.{member}"
