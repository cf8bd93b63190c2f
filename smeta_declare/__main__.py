"""`python -m smeta_declare` is `smeta`."""

from smeta_declare.cli.main import main

if __name__ == "__main__":
    main()
