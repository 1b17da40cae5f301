"""For users of the API: a transport that keeps the exact bytes and the promise, and checks the receipt afterwards.

keeper = Keeper(vkey=open("log.vkey").read())
client = OpenAI(..., http_client=httpx2.Client(transport=keeper.transport(httpx2.HTTPTransport())))
answer = client.chat.completions.create(...)
verdict = keeper.verify(answer._request_id)

With AsyncOpenAI: `keeper.async_transport(httpx2.AsyncHTTPTransport())`, and `await keeper.verify_async(...)`.
"""

from daulat.client.keeper import AsyncTransport, Keeper, Kept, Transport

__all__ = ["AsyncTransport", "Keeper", "Kept", "Transport"]
