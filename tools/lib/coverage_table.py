"""Prints a table of what llvm-cov has counted.

Usage: coverage_table.py FOLDER <LCOV

LCOV is what `llvm-cov export -format=lcov` writes. For each file below FOLDER: lines with code, those that were reached,
branches (each way out of a condition counts), those that were taken, and the lines that were not reached.
"""

import pathlib
import sys


def ranges(numbers):
    """[1, 2, 3, 7] as '1-3,7'."""
    out = []
    for number in sorted(numbers):
        if out and number == out[-1][1] + 1:
            out[-1][1] = number
        else:
            out.append([number, number])
    return ','.join(str(first) if first == last else f'{first}-{last}' for first, last in out)


def files(lines):
    """The path of each file, the count of each of its lines, and of each of its branches."""
    path, of_lines, of_branches = None, {}, {}
    for line in lines:
        key, _, rest = line.rstrip('\n').partition(':')
        if key == 'SF':
            path, of_lines, of_branches = pathlib.Path(rest), {}, {}
        elif key == 'DA':
            number, count = rest.split(',')[:2]
            of_lines[int(number)] = of_lines.get(int(number), 0) + int(count)
        elif key == 'BRDA':
            where, _, count = rest.rpartition(',')
            of_branches[where] = of_branches.get(where, 0) + (0 if count == '-' else int(count))
        elif key == 'end_of_record':
            yield path, of_lines, of_branches


def row(name, lines, lines_reached, branches, branches_taken, missing=''):
    def percent(part, whole):
        return f'{100 * part / whole:.1f}%' if whole else '-'
    print(f'{name:<46} {lines:>6} {lines_reached:>6} {percent(lines_reached, lines):>7} '
          f'{branches:>6} {branches_taken:>6} {percent(branches_taken, branches):>7}  {missing}'.rstrip())


def main():
    root = pathlib.Path.cwd()
    folder = root / sys.argv[1]
    total = [0, 0, 0, 0]
    print(f'{"":<46} {"lines":>6} {"reached":>6} {"":>6} {"branches":>6} {"taken":>5} {"":>7}  not reached')
    for path, of_lines, of_branches in sorted(files(sys.stdin)):
        if folder not in path.parents:
            continue
        missing = [number for number, count in of_lines.items() if count == 0]
        counts = [len(of_lines), len(of_lines) - len(missing), len(of_branches),
                  sum(1 for count in of_branches.values() if count)]
        row(str(path.relative_to(root)), *counts, ranges(missing))
        total = [a + b for a, b in zip(total, counts)]
    row('all', *total)


main()
