use craft_pocket::world::*;
fn main(){
 let mut rng=WorldRng::new(5); let mut shown=0;
 let mut conf=std::collections::BTreeMap::new();
 for _ in 0..4000 { let s=Scene::random(&mut rng);
  let v=look(&render(&s,&Quality::BEST)).unwrap();
  if v.objects.len()!=s.objects.len() && shown<12 {shown+=1; println!("{:?} -> {} seen {:?}", s.objects.iter().map(|o|(o.look.shape,o.x,o.y,o.radius)).collect::<Vec<_>>(), v.objects.len(), v.objects.iter().map(|o|(o.shape,o.x,o.y)).collect::<Vec<_>>());}
  let mut q=Quality::BEST; q.sharpness=0.0;
  if s.kind==SceneKind::Single { for o in look(&render(&s,&q)).unwrap().objects { *conf.entry((s.objects[0].look.size, s.objects[0].look.shape,o.shape)).or_insert(0)+=1; } }
 }
 println!("{conf:#?}");
}
