from keras import*
L=layers
B=lambda x:L.BatchNormalization(-1,.9,1e-5)(ops.gelu(x,0))
def ConvMixer(i,h,d,k,p,n):
 x=B(L.Conv2D(h,p,p)(i))
 for _ in range(d):x=B(L.Conv2D(h,1)(x+B(L.DepthwiseConv2D(k,1,"same")(x))))
 return Model(i,L.Dense(n,"softmax")(ops.mean(x,(1,2))))
