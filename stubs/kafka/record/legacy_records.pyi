from collections.abc import Iterator

class LegacyRecord:
    offset: int
    timestamp: int | None
    key: bytes | None
    value: bytes | None

class LegacyRecordBatch:
    KEY_OFFSET_V0: int
    KEY_OFFSET_V1: int
    _buffer: memoryview
    magic: int
    base_offset: int
    size_in_bytes: int
    compression_type: int
    def validate_crc(self) -> bool: ...
    def __iter__(self) -> Iterator[LegacyRecord]: ...

class LegacyRecordBatchBuilder:
    def __init__(self, magic: int, compression_type: int, batch_size: int) -> None: ...
    def append(self, offset: int, timestamp: int, key: bytes | None, value: bytes | None) -> object: ...
    def build(self) -> bytearray: ...
