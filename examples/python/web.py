"""A web application with a chat in it: it starts the engine in its lifespan, and its own session says who a chat user is.

    pip install klatch starlette uvicorn itsdangerous
    uvicorn web:app                       # http://127.0.0.1:8000/login?user=ann

A page of this application asks /chat for an address and a ticket, and connects to the address with the ticket as its token. With
several workers (uvicorn --workers 2, gunicorn) each has an engine and a port of its own, and they are one chat on Kafka:

    SECRET=... CHAT_LOG=kafka://127.0.0.1:9092/chats CHAT_LISTEN=127.0.0.1:0 uvicorn --workers 2 web:app
"""

import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from itsdangerous import BadData, URLSafeTimedSerializer
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

import klatch
from klatch.hooks import ConnectRequest, JoinRequest

SECRET = os.environ.get("SECRET") or secrets.token_hex()
tickets = URLSafeTimedSerializer(SECRET, salt="chat")

engine = klatch.Engine(
    log=os.environ.get("CHAT_LOG", "chat-data"),
    listen=os.environ.get("CHAT_LISTEN", "127.0.0.1:8081"),
    # On Kafka each worker reads the topic when it starts, and shares no folder with the others.
    kafka={"view_dir": "memory"},
    # Pages of this application may connect; browsers tell where a page is from.
    origins=[os.environ.get("ORIGIN", "http://127.0.0.1:8000")],
)


@engine.on_connect
def connect(request: ConnectRequest) -> str:
    try:
        return str(tickets.loads(request.token, max_age=60))
    except BadData:
        raise klatch.Deny("log in first") from None


@engine.on_join
def join(request: JoinRequest) -> bool:
    return request.room == "lobby" or request.room == f"for-{request.user}"


async def login(request: Request) -> Response:
    request.session["user"] = request.query_params["user"]
    return Response(status_code=204)


async def chat(request: Request) -> Response:
    user = request.session.get("user")
    if user is None:
        return Response("log in first", status_code=401)
    return JSONResponse({"url": engine.url, "ticket": tickets.dumps(user)})


async def order(request: Request) -> Response:
    """Something happens in the application, and the user's page hears of it."""
    user = request.session["user"]
    ack = await engine.publish(f"for-{user}", {"order": "taken"}, user="shop")
    return JSONResponse({"offset": ack.offset})


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    async with engine:
        yield


app = Starlette(
    routes=[Route("/login", login), Route("/chat", chat), Route("/order", order, methods=["POST"])],
    middleware=[Middleware(SessionMiddleware, secret_key=SECRET)],
    lifespan=lifespan,
)
