# shellcheck shell=bash
# python_of 3.12: the interpreter of that version, on the path or one of pyenv's; fails where there is none.
python_of() {
    if "python$1" -c '' 2>/dev/null; then
        command -v "python$1"
    else
        compgen -G "${PYENV_ROOT:-$HOME/.pyenv}/versions/$1.*/bin/python" | tail -n 1
    fi
}
