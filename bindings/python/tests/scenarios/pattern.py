"""Values that are known only at run time: variables, and what is expected of a value."""


class Mismatch(AssertionError):
    pass


def special(value):
    if isinstance(value, dict) and len(value) == 1:
        ((key, argument),) = value.items()
        if key.startswith("$") and key != "$more":
            return key[1:], argument
    return None


def same(expected, got):
    # JSON tells true from 1, and so does this; 1 and 1.0 differ too.
    if type(expected) is not type(got):
        raise Mismatch(f"expected {expected!r}, not {got!r}")
    if isinstance(expected, dict):
        if expected.keys() != got.keys():
            raise Mismatch(f"expected {expected!r}, not {got!r}")
        for key in expected:
            same(expected[key], got[key])
    elif isinstance(expected, list):
        if len(expected) != len(got):
            raise Mismatch(f"expected {expected!r}, not {got!r}")
        for one, other in zip(expected, got):
            same(one, other)
    elif expected != got:
        raise Mismatch(f"expected {expected!r}, not {got!r}")


def matches(pattern, got, variables):
    """Binds variables, and raises where something differs."""
    if isinstance(pattern, str) and pattern.startswith("$"):
        name = pattern[1:]
        if name == "any":
            return
        if name.startswith("$"):
            same(name, got)
        elif name in variables:
            same(variables[name], got)
        else:
            variables[name] = got
        return
    word = special(pattern)
    if word:
        return test(*word, got, variables)
    if isinstance(pattern, dict):
        if not isinstance(got, dict):
            raise Mismatch(f"expected an object, not {got!r}")
        for key, value in pattern.items():
            if key == "$more":
                continue
            if key not in got:
                raise Mismatch(f"{key} is missing in {got!r}")
            matches(value, got[key], variables)
        if "$more" not in pattern and got.keys() - pattern.keys():
            raise Mismatch(f"{got.keys() - pattern.keys()} was not expected: {got!r}")
    elif isinstance(pattern, list):
        if not isinstance(got, list) or len(got) != len(pattern):
            raise Mismatch(f"expected {len(pattern)} elements, not {got!r}")
        for one, other in zip(pattern, got):
            matches(one, other, variables)
    else:
        same(pattern, got)


def accepts(pattern, got, variables):
    """Whether it matches; binds nothing."""
    try:
        matches(pattern, got, dict(variables))
    except Mismatch:
        return False
    return True


def test(word, argument, got, variables):
    if word == "gt":
        least = fill(argument, variables)
        ok = type(got) is int and got > least
    elif word == "contains":
        ok = isinstance(got, str) and argument in got
    elif word == "length":
        ok = isinstance(got, list) and len(got) == argument
    elif word == "not":
        ok = not accepts(argument, got, variables)
    elif word == "any_of":
        for choice in argument:
            if accepts(choice, got, variables):
                return matches(choice, got, variables)
        ok = False
    elif word == "repeat":
        return same(repeat(argument), got)
    else:
        raise Mismatch(f"the format has no ${word}")
    if not ok:
        raise Mismatch(f"expected ${word} {argument!r}, not {got!r}")


test.__test__ = False  # pytest: it is none of yours.


def repeat(argument):
    text, times = argument
    return text * times


def fill(value, variables):
    """The value with its variables filled in."""
    if isinstance(value, str) and value.startswith("$"):
        return value[1:] if value.startswith("$$") else variables[value[1:]]
    word = special(value)
    if word:
        assert word[0] == "repeat", f"${word[0]} is no value"
        return repeat(word[1])
    if isinstance(value, dict):
        return {k: fill(v, variables) for k, v in value.items()}
    if isinstance(value, list):
        return [fill(v, variables) for v in value]
    return value


def text_of(value):
    """Text made of pieces: a string, or an array of strings and [string, times]."""
    if isinstance(value, str):
        return value
    return "".join(part if isinstance(part, str) else repeat(part) for part in value)
