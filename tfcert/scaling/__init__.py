"""Certification of large sets on Apache Beam: shards of inputs in, shards of logs out."""

from tfcert.scaling.shards import Shard, read_shard, write_shards

__all__ = ["Shard", "read_shard", "write_shards"]
