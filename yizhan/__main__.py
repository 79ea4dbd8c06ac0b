from yizhan.cli import main

raise SystemExit(main())
