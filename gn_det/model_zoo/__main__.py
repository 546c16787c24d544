"""List the model zoo: python -m gn_det.model_zoo [--markdown]."""

import argparse

from .table import markdown_table, plain_table

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m gn_det.model_zoo", description=__doc__)
    parser.add_argument("--markdown", action="store_true", help="the table of the README")
    print(markdown_table() if parser.parse_args().markdown else plain_table())
