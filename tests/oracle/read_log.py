#!/usr/bin/env python3
"""Prints the records of an embedded log's directory as JSON lines; written from docs/log-format.md alone.

An incomplete last batch is passed over; anything else that does not check ends it with an error."""
import base64, json, pathlib, struct, sys

TABLE = list(range(256))
for _ in range(8):
    TABLE = [c >> 1 ^ 0x82F63B78 * (c & 1) for c in TABLE]


def crc32c(data, crc=0):
    crc ^= 0xFFFFFFFF
    for byte in data:
        crc = TABLE[(crc ^ byte) & 255] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def records(directory):
    files = sorted(p for p in pathlib.Path(directory).glob("*.log") if len(p.stem) == 20)
    expected = int(files[0].stem) if files else 1
    for path in files:
        data, at = path.read_bytes(), 48
        last = path == files[-1]
        if len(data) < 48 and last:
            return
        magic, version, log_id, first = struct.unpack_from("<8sI16sQ", data)
        assert (magic, version, first) == (b"klatchlg", 1, expected) and int(path.stem) == first, f"{path}: head"
        assert crc32c(data[:44]) == struct.unpack_from("<I", data, 44)[0], f"{path}: CRC of head"
        mark = crc32c(log_id)
        while at < len(data):
            head = data[at:at + 24].ljust(24, b"\0")
            begin, length, count, first, crc = struct.unpack("<IIIQI", head)
            content = data[at + 24:at + 24 + length]
            if begin != mark or len(content) != length or crc != crc32c(head[4:20] + content, mark):
                assert last, f"{path}: batch at {at}"
                return
            assert first == expected, f"{path}: batch at {at} begins with {first}, not {expected}"
            expected, at, place = first + count, at + 24 + length, 0
            for sequence in range(first, expected):
                size, crc, number, time = struct.unpack_from("<IIQQ", content, place)
                body = content[place + 24:place + 24 + size]
                assert number == sequence, f"{path}: record {sequence}"
                assert crc == crc32c(content[place:place + 4] + content[place + 8:place + 24 + size], mark)
                place += 24 + size
                kind, ends = body[0], [4, 4 + body[1], 4 + sum(body[1:3]), 4 + sum(body[1:4])]
                room, user, given = (body[a:b].decode() for a, b in zip(ends, ends[1:]))
                yield dict(offset=sequence, time=time, room=room, user=user, id=given or f"~{sequence}",
                           kind=["json", "binary"][kind], data=base64.b64encode(body[ends[3]:]).decode())
            assert place == length, f"{path}: records do not fill their batch"


for record in records(sys.argv[1]):
    print(json.dumps(record))
