"""Sealed objects in a bucket that speaks S3: AWS, MinIO, Ceph, SeaweedFS, Garage. Only ciphertext goes there.

Named by s3+https://HOST[:PORT]/BUCKET. One part after another is uploaded and completed in the end, which makes the
whole object visible at once; an object of one part is put in one call.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.session import Session

from daulat.adapters import key_file
from daulat.errors import ConfigError, InvalidRequest, NotFound, Unavailable

_ADDRESS: Final = re.compile(r"s3\+(https?)://([A-Za-z0-9.-]+(?::\d+)?)/([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])\Z")
_NAME: Final = re.compile(r"[a-z0-9_]{1,120}\Z")
_PART: Final = 8 << 20  # at least 5 MiB, but for the last
_PIECE: Final = 1 << 18
_SECONDS: Final = 20
_HERE: Final = frozenset({"127.0.0.1", "localhost"})


class Bucket:
    """`vault.ports.Place`."""

    def __init__(self, address: str, secret_file: Path) -> None:
        """Raises ConfigError: the address or the credentials are none; plain HTTP leaves this machine."""
        match = _ADDRESS.match(address)
        if match is None:
            raise ConfigError("expected s3+https://HOST[:PORT]/BUCKET", location="vault_storage")
        scheme, self.host, self._bucket = match.groups()
        if scheme == "http" and self.host.partition(":")[0] not in _HERE:
            raise ConfigError("a bucket elsewhere is reached with https only", location="vault_storage")
        access, separator, secret = key_file.read(secret_file, "secret").partition(":")
        if not separator:
            raise ConfigError("expected ACCESS_KEY_ID:SECRET on one line", location=str(secret_file))
        session = Session()  # of ours alone: no profile, environment or metadata service is asked for credentials
        session.set_credentials(access, secret)
        config = Config(
            signature_version="s3v4",
            s3={"addressing_style": "path"},
            connect_timeout=_SECONDS,
            read_timeout=_SECONDS,
            retries={"max_attempts": 3, "mode": "standard"},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            proxies={},
        )
        self._client: Any = session.create_client(
            "s3", region_name="us-east-1", endpoint_url=f"{scheme}://{self.host}", config=config
        )

    def region(self) -> str:
        """What the provider says of the bucket's region (GetBucketLocation).

        Raises:
            Unavailable: it does not say; ConfigError: there is no such bucket.
        """
        try:
            answer = self._client.get_bucket_location(Bucket=self._bucket)
        except ClientError as error:
            words = f"bucket {self._bucket!r}: {_code(error)}"
            raise ConfigError(words, location="vault_storage") from None
        except BotoCoreError as error:
            raise _failed(error) from None
        return answer.get("LocationConstraint") or "us-east-1"  # that is what an empty answer means

    def describe(self) -> str:
        return f"bucket {self._bucket} at {self.host}"

    def put(self, name: str, data: Iterable[bytes]) -> int:
        """Raises Unavailable: the provider does not take it; nothing is kept then."""
        key, size, held = self._key(name), 0, bytearray()
        upload, parts = "", list[dict[str, Any]]()
        try:
            for piece in data:
                held += piece
                size += len(piece)
                if len(held) > _PART:
                    upload = upload or self._client.create_multipart_upload(Bucket=self._bucket, Key=key)["UploadId"]
                    parts.append(self._part(key, upload, len(parts) + 1, bytes(held[:_PART])))
                    del held[:_PART]
            if not upload:
                self._client.put_object(Bucket=self._bucket, Key=key, Body=bytes(held))
                return size
            parts.append(self._part(key, upload, len(parts) + 1, bytes(held)))
            whole = {"Parts": parts}
            self._client.complete_multipart_upload(Bucket=self._bucket, Key=key, UploadId=upload, MultipartUpload=whole)
        except BaseException as error:
            if upload:
                self._abort(key, upload)
            if isinstance(error, ClientError | BotoCoreError):
                raise _failed(error) from None
            raise
        return size

    def get(self, name: str) -> Iterator[bytes]:
        """Raises NotFound, Unavailable."""
        try:
            body = self._client.get_object(Bucket=self._bucket, Key=self._key(name))["Body"]
        except ClientError as error:
            if _code(error) in {"NoSuchKey", "404"}:
                raise NotFound("the object is not where it was kept", code="object_missing") from None
            raise _failed(error) from None
        except BotoCoreError as error:
            raise _failed(error) from None

        def pieces() -> Iterator[bytes]:
            try:
                yield from body.iter_chunks(_PIECE)
            except BotoCoreError as error:
                raise _failed(error) from None
            finally:
                body.close()

        return pieces()

    def delete(self, name: str) -> None:
        try:
            self._client.delete_object(Bucket=self._bucket, Key=self._key(name))
        except (ClientError, BotoCoreError) as error:
            raise _failed(error) from None

    def names(self) -> Iterator[str]:
        try:
            for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket):
                yield from (each["Key"] for each in page.get("Contents", ()) if _NAME.match(each["Key"]))
        except (ClientError, BotoCoreError) as error:
            raise _failed(error) from None

    def tidy(self) -> None:
        """Parts of uploads that were never completed."""
        try:
            for page in self._client.get_paginator("list_multipart_uploads").paginate(Bucket=self._bucket):
                for each in page.get("Uploads", ()):
                    if _NAME.match(each["Key"]):
                        self._abort(each["Key"], each["UploadId"])
        except (ClientError, BotoCoreError) as error:
            raise _failed(error) from None

    def _part(self, key: str, upload: str, number: int, data: bytes) -> dict[str, Any]:
        told = self._client.upload_part(Bucket=self._bucket, Key=key, UploadId=upload, PartNumber=number, Body=data)
        return {"ETag": told["ETag"], "PartNumber": number}

    def _abort(self, key: str, upload: str) -> None:
        try:
            self._client.abort_multipart_upload(Bucket=self._bucket, Key=key, UploadId=upload)
        except (ClientError, BotoCoreError):
            return  # `tidy` tries again

    def _key(self, name: str) -> str:
        if not _NAME.match(name):
            raise InvalidRequest("an object's name is of lower-case letters, digits and '_'")
        return name


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", "error"))


def _failed(error: ClientError | BotoCoreError) -> Unavailable:
    said = _code(error) if isinstance(error, ClientError) else type(error).__name__
    return Unavailable(f"the bucket does not answer as it should: {said}", code="storage_failed")
