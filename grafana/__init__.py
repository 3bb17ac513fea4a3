"""The generator of everything Grafana is provisioned with: `python grafana/build.py`."""
