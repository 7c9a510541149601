"""The operators' console: pages rendered on the server, without external resources, usable without scripts.

Read `pages` first: the read-only pages. `review`, `decision`, `feedback` and `trends` are pages of their own, `forms`
handles forms, `bulk` those about many reports, `layout` renders pages and errors, `sessions` handles sign-in, and
`charts` computes the plots. Forms call the same functions as the command line and the API.
"""

from __future__ import annotations

from fastapi import APIRouter

from daemon.config import Config
from daemon.store import Store
from daemon.web.access import Access
from daemon.web.console.bulk import bulk_router
from daemon.web.console.decision import decision_router
from daemon.web.console.feedback import feedback_pages
from daemon.web.console.forms import forms_router
from daemon.web.console.layout import Shell, static_router
from daemon.web.console.pages import pages_router
from daemon.web.console.review import review_router
from daemon.web.console.sessions import sessions_router
from daemon.web.console.trends import trends_router


def console_router(store: Store, config: Config, access: Access) -> APIRouter:
    shell = Shell(store=store, access=access)
    router = APIRouter(include_in_schema=False)
    router.include_router(static_router())
    router.include_router(sessions_router(shell))
    router.include_router(pages_router(shell, config))
    router.include_router(decision_router(shell))
    router.include_router(feedback_pages(shell))
    router.include_router(review_router(shell))
    router.include_router(trends_router(shell))
    router.include_router(forms_router(shell, config))
    router.include_router(bulk_router(shell))
    return router
