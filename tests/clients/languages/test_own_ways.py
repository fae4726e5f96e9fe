"""What is one language's own."""

import subprocess

import pytest
from statecell_client import Client

from tests.clients.languages.conftest import CLIENTS, Language
from tests.clients.languages.driver import Driver
from tests.conftest import LIMIT


@pytest.mark.parametrize("language", ["node"], indirect=True)
def test_two_steps_of_a_session_at_once_are_refused_in_node(language: Language, address: str) -> None:
    code = f"""
        import {{ Client, StepInFlight }} from 'statecell-client';
        const client = new Client('{address}');
        const session = await client.session('lstm');
        const x = new Float32Array(10);
        const [first, second] = await Promise.allSettled([session.step(x), session.step(x)]);
        await session.step(x);
        console.log(first.status, second.reason instanceof StepInFlight, second.reason.reason, session.stepIndex);
        await session[Symbol.asyncDispose]();
        console.log((await client.sessions('lstm')).some(({{ sessionId }}) => sessionId === session.id));
        client.close();
    """
    command = ["node", "--input-type=module", "--eval", code]
    run = subprocess.run(command, cwd=CLIENTS / "node", capture_output=True, text=True, timeout=LIMIT, check=True)
    assert run.stdout.splitlines() == ["fulfilled true STEP_IN_FLIGHT 2", "false"]


@pytest.mark.parametrize("language", ["cpp"], indirect=True)
def test_the_end_of_a_session_deletes_it_in_cpp(driver: Driver, client: Client) -> None:
    driver.session("a", "gru_cell")
    assert len(client.sessions("gru_cell")) == 1
    driver.stop()
    assert client.sessions("gru_cell") == []
