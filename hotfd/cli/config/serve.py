"""``hotfd config serve``: a configuration server."""

from __future__ import annotations

import sys

import click

from hotfd.cli.config.options import store_option
from hotfd.cli.group import usage_error
from hotfd.cli.options import seconds

_FILE = click.Path(dir_okay=False)


@click.command("serve")
@click.option(
    "--module", "modules", multiple=True, required=True, metavar="MODULE", help="A module to serve. Repeatable."
)
@click.option(
    "--listen",
    multiple=True,
    required=True,
    metavar="ADDR",
    help="Listen at HOST:PORT, [IPV6]:PORT or unix:PATH. Repeatable.",
)
@store_option()
@click.option(
    "--interval",
    type=float,
    callback=seconds(positive=True),
    default=3.0,
    show_default=True,
    metavar="S",
    help="Seconds between two digests to a subscriber; changes are told at once.",
)
@click.option(
    "--advertise",
    multiple=True,
    metavar="ADDR",
    help="The address to register in the store, when it is not that of --listen. Repeatable.",
)
@click.option("--name", default="configuration", show_default=True, metavar="NAME", help="The server's name.")
@click.option("--tls-cert", type=_FILE, metavar="FILE", help="The server's certificate, in PEM.")
@click.option("--tls-key", type=_FILE, metavar="FILE", help="Its private key, in PEM.")
@click.option("--tls-ca", type=_FILE, metavar="FILE", help="The authority that subscribers' certificates come from.")
@click.option("--no-client-certs", is_flag=True, help="Serve everybody who connects, without a certificate.")
@click.option(
    "--control", multiple=True, metavar="HOST:PORT", help="Open a console for Telnet clients there. Repeatable."
)
@click.option("--control-token", type=_FILE, metavar="FILE", help="The consoles' token.")
@click.option(
    "--max-subscribers",
    type=click.IntRange(1, 100_000),
    default=10_000,
    show_default=True,
    metavar="N",
    help="Refuse more subscribers than that.",
)
@click.option("--log-style", type=click.Choice(["text", "json"]), default="text", show_default=True)
def command(
    *,
    modules: tuple[str, ...],
    listen: tuple[str, ...],
    store_url: str,
    interval: float,
    advertise: tuple[str, ...],
    name: str,
    tls_cert: str | None,
    tls_key: str | None,
    tls_ca: str | None,
    no_client_certs: bool,
    control: tuple[str, ...],
    control_token: str | None,
    max_subscribers: int,
    log_style: str,
) -> None:
    """Serve modules' releases from a store to the servers that follow them.

    Where other machines can reach it, only with TLS. SIGUSR2 hands over, as hotfd handoff does, and reads the
    certificate again; SIGTERM and SIGINT end it.

    Exit status: 0 when it was stopped or handed over, 1 when it cannot serve, 2 for usage, 75 when a handoff
    started it and failed.
    """
    # Not at the top: other commands should not pay for the server.
    from hotfd.distribution.program import serve
    from hotfd.distribution.settings import Settings
    from hotfd.errors import ConfigError

    try:
        settings = Settings(
            modules=modules,
            listen=listen,
            store=store_url,
            interval=interval,
            advertise=advertise,
            name=name,
            tls_cert=tls_cert,
            tls_key=tls_key,
            tls_ca=tls_ca,
            client_certs=not no_client_certs,
            control=control,
            control_token=control_token,
            max_subscribers=max_subscribers,
        )
    except ConfigError as error:
        usage_error(str(error))
    sys.exit(serve(settings, log_style))
