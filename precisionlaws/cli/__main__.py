"""python -m precisionlaws.cli"""

from precisionlaws.cli import main

main()
