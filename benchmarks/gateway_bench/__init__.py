"""What ``benchmarks/gateway.py`` is made of: stub upstream, load generator, the gateways compared, report."""
