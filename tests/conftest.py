"""What all tests share: every pass that runs in a test is verified and validated on the way."""

pytest_plugins = ["graphopt.testing.plugin"]
