"""The part of rules_python that the BUILD files load, from the rules built into old Bazel."""

py_binary = native.py_binary
py_library = native.py_library
py_test = native.py_test
