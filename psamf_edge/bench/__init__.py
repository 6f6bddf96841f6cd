"""Measures latency by stage, throughput, memory and energy on this machine, and says where its own figures mislead."""
