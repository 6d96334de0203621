"""A reward for craft that prefers pictures which compress well: JSON lines in, JSON lines out."""
import json, os, sys

for line in sys.stdin:
    request = json.loads(line)  # {"id": 1, "image": "/path/of/a.png", "prompt": "a red circle"}
    try:
        answer = {"id": request["id"], "score": -os.path.getsize(request["image"]) / 1000}
    except Exception as error:
        answer = {"id": request["id"], "error": str(error)}
    print(json.dumps(answer), flush=True)
