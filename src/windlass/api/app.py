"""The API of the control plane: everything that people and programs ask of it, over HTTP.

Made by `windlass up`. It writes wishes and reads rows; the controller does the rest. Must never load a model, nor serve
a route that declares no permission.
"""

from __future__ import annotations

from typing import Any

import fastapi
import msgspec
from starlette import routing

from windlass.api import (
    access,
    audit,
    deployments,
    document,
    door,
    events,
    feedback,
    jobs,
    keys,
    models,
    packages,
    routes,
)
from windlass.api.plane import Plane

__all__ = ["ROUTES", "Plane", "create", "declared"]


class Health(msgspec.Struct, frozen=True):
    """That the API answers; whether its database does is for those who may ask."""

    live: bool = True


def health(plane: Plane, call: routes.Call) -> Health:
    """Whether the API answers at all."""
    del plane, call
    return Health()


def described(plane: Plane, call: routes.Call) -> Any:
    """This document: every route, what it takes and what it answers."""
    del plane, call
    return document.make(ROUTES)


ROUTES: tuple[routes.Route, ...] = (
    routes.Route("GET", "/healthz", access.OPEN, health, Health),
    routes.Route("GET", "/openapi.json", access.ANY_KEY, described, dict[str, Any]),
    *models.ROUTES,
    *packages.ROUTES,
    *deployments.ROUTES,
    *feedback.ROUTES,
    *jobs.ROUTES,
    *audit.ROUTES,
    *keys.ROUTES,
    *events.ROUTES,
)


def create(plane: Plane) -> fastapi.FastAPI:
    """The application, for an ASGI server. `ValueError` if a route declares no permission."""
    app = fastapi.FastAPI(title=document.TITLE, openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    for route in ROUTES:
        app.add_api_route(
            route.full_path, routes.endpoint(route, plane), methods=[route.method], response_model=None, name=route.name
        )
    app.add_middleware(
        door.Door,
        table=declared(app),
        known=plane.keys,
        rows=plane.rows,
        hosts=(*plane.settings.up.hosts, plane.settings.up.host),
        clock=plane.clock,
    )
    return app


def declared(app: fastapi.FastAPI) -> list[routing.BaseRoute]:
    """The routes of an application; `ValueError` names one that declares no permission."""
    for one in app.routes:
        route = routes.declared_by(one)
        if route is None or route.permission not in access.PERMISSIONS:
            raise ValueError(f"the route {getattr(one, 'path', one)} declares no permission")
    return app.routes
