"""Tests for workers: a pytest plugin with a Postgres that is thrown away.

    def test_hello(damad):
        trial = damad.run_worker("workers/hello.py", {"name": "world"})
        assert trial.result == {"greeting": "hello world"}

`plugin.py` is what pytest loads, and imports nothing before a test asks; `server.py` is the Postgres; `trials.py` runs
workers in the test's own process, under real claims and on a real log.
"""
