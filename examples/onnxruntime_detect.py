"""Boxes of a photo without detkit: onnxruntime, NumPy and OpenCV, and a file that `detkit export street --nms` wrote.

Run it:  python onnxruntime_detect.py street-nms.onnx photo.jpg
The boxes are those of `detkit detect`; of a photo more than twice as large as the canvas, to a pixel.
"""

import json
import sys

import cv2
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession(sys.argv[1])
card = json.loads(session.get_modelmeta().custom_metadata_map["detkit"])
image = cv2.cvtColor(cv2.imread(sys.argv[2]), cv2.COLOR_BGR2RGB)
(photo_h, photo_w), (h, w) = image.shape[:2], card["input_hw"]
scale = min(h / photo_h, w / photo_w)
inner_h, inner_w = round(photo_h * scale), round(photo_w * scale)
top, left = (h - inner_h) // 2, (w - inner_w) // 2
canvas = np.full((1, h, w, 3), card["pad_value"], np.uint8)
canvas[0, top : top + inner_h, left : left + inner_w] = cv2.resize(
    image, (inner_w, inner_h), interpolation=cv2.INTER_AREA
)
detections, count = session.run(["detections", "count"], {"images": canvas})
boxes = (detections[0, : count[0], :4] - [left, top, left, top]) / ([inner_w / photo_w, inner_h / photo_h] * 2)
for box, (score, label) in zip(boxes.clip(0, [photo_w, photo_h] * 2), detections[0, :, 4:]):
    print(card["class_names"][int(label)], f"{score:.4f}", *box.round(1))
