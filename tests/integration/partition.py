"""Cut a subscriber off from its configuration server, and print in seconds how soon it is current again.

Run in a network namespace of its own (unshare(1)), where it may drop packets as it likes. Arguments: a directory,
an interval in seconds.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path

from hotfd.config.open import open_store
from tests.integration.config_releases import publish_to
from tests.integration.config_serving import configuration, url_of
from tests.unit.push_following import following_url


def network(*commands: str) -> None:
    for command in commands:
        subprocess.run(command.split(), check=True)


async def main(directory: Path, interval: float) -> None:
    network("ip link set lo up")
    store = open_store(f"dir:{directory}/store", create=True)
    await publish_to(store, {"size": 1})
    with configuration(directory, directory / "store", interval=interval) as service:
        async with following_url(url_of(service), interval=interval) as follower:
            await follower.heads()
            network(
                "nft add table inet cut",
                "nft add chain inet cut input { type filter hook input priority 0 ; }",
                f"nft add rule inet cut input tcp dport {service.port} drop",
                f"nft add rule inet cut input tcp sport {service.port} drop",
            )
            await asyncio.sleep(3 * interval)  # the connection is given up after two, and tried again in vain
            assert follower.source.contact == ""
            await publish_to(store, {"size": 2})
            network("nft delete table inet cut")
            healed = time.monotonic()
            while (await follower.heads())["arena"].sequence < 2:
                pass
            print(time.monotonic() - healed)
    await store.aclose()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), float(sys.argv[2])))
