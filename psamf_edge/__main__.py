"""`python -m psamf_edge` is the command line."""

from psamf_edge.cli import main

if __name__ == "__main__":
    main(prog_name="psamf-edge")
