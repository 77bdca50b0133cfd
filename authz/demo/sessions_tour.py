"""The steps about the token service: log-in, refresh, a used refresh token, log-out everywhere."""

from authz.demo.login import Given
from authz.demo.show import (
    OK,
    REVOKED,
    UNAUTHORIZED,
    Show,
    Step,
    StepError,
    ask_until_refused,
    expect,
    expect_let_through,
    outcome,
)

BAD_REQUEST = 400


def logged_in(show: Show) -> None:
    with show.asking("POST /oauth2/token by a login service, for Grace, who has just logged in"):
        given = show.stage.log_in("grace", "Grace's phone")
    show.came(str(given))
    _expect_tokens(given)
    with show.asking("GET /hello, with the token that Grace got"):
        answer = show.stage.ask("grace")
    show.came(outcome(answer))
    expect_let_through(answer, "grace", "allow")


def refreshed(show: Show) -> None:
    before = show.stage.token("grace")
    with show.asking("POST /oauth2/token, with her refresh token"):
        given = show.stage.refresh("grace")
    show.came(str(given))
    _expect_tokens(given)
    if given.access_token == before:
        raise StepError("the token is the one that she had")
    with show.asking("GET /hello, with her new token"):
        answer = show.stage.ask("grace")
    show.came(outcome(answer))
    expect_let_through(answer, "grace", "allow")


def reused(show: Show) -> None:
    stolen = show.stage.log_in("heidi", "Heidi's laptop").refresh_token
    _expect_tokens(show.stage.refresh("heidi"))
    expect_let_through(show.stage.ask("heidi"), "heidi", "allow")
    with show.asking("POST /oauth2/token, with a refresh token that Heidi has used already"):
        given = show.stage.refresh("heidi", stolen)
    show.came(str(given))
    _expect_refusal(given, "invalid_grant")
    with show.asking("GET /hello, with her new token, which nobody stole, until it is refused"):
        answer, waited = ask_until_refused(show.stage, "heidi")
    show.came(outcome(answer))
    show.took(waited, "the answer")
    expect(answer, UNAUTHORIZED, REVOKED)


def logged_out_everywhere(show: Show) -> None:
    phone = show.stage.token("grace")
    with show.asking("DELETE /users/grace/sessions, by Grace, who is logged in on two devices"):
        show.stage.log_in("grace-laptop", "Grace's laptop", subject="grace")
        devices = show.stage.devices("grace")
        given = show.stage.log_out_everywhere("grace")
    show.came(f"{given.status}, {len(devices)} sessions ended: {', '.join(devices)}")
    if given.status != OK or given.body.get("ended") != len(devices) or not devices:
        raise StepError(f"expected {len(devices)} ended sessions, got {given}")
    for name in ("grace", "grace-laptop"):
        answer, waited = ask_until_refused(show.stage, name)
        show.came(f"{name}: {outcome(answer)}")
        show.took(waited, "the answer" if name == "grace" else "that")
        expect(answer, UNAUTHORIZED, REVOKED)
    with show.asking("POST /oauth2/token, with her refresh token"):
        again = show.stage.refresh("grace")
    show.came(str(again))
    _expect_refusal(again, "invalid_grant")
    if show.stage.token("grace") != phone:
        raise StepError("a refusal brought a token")


def _expect_tokens(given: Given) -> None:
    if given.status != OK or not (given.access_token and given.refresh_token):
        raise StepError(f"expected an access token and a refresh token, got {given}")


def _expect_refusal(given: Given, error: str) -> None:
    if (given.status, given.body.get("error")) != (BAD_REQUEST, error):
        raise StepError(f"expected {BAD_REQUEST} {error}, got {given}")


STEPS = (
    Step("a user logs in at the token service, and the token is let through", logged_in),
    Step("a refresh gives a new token", refreshed),
    Step("a refresh token that is used twice ends the session, whoever has it", reused),
    Step("log-out everywhere ends all sessions of a user", logged_out_everywhere),
)
