"""Tests of tfcert; the files mirror the package's modules."""
